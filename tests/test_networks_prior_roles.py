"""Roles on one prior: how adapters start, who acts, recomputed layers, merging, states."""

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from onestep.core.errors import UsageError
from onestep.networks.adapters import ALPHA, change
from onestep.networks.diffusion_prior import DiffusionPrior
from prior_parts import TINY, shaken, tiny_prior


def test_adapters_start_as_nothing_at_scale_two():
    prior = tiny_prior()
    layers = prior.unet_adapters.layers + prior.vae_adapters.layers
    assert {float(scale) for layer in layers for scale in layer.scaling.values()} == {2.0}
    a = torch.cat([p.flatten() for n, p in prior.unet.named_parameters() if "lora_A" in n])
    assert float(a.std()) == pytest.approx(0.25, rel=0.05)
    assert not any(bool(p.any()) for n, p in prior.unet.named_parameters() if "lora_B" in n)
    image, text = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(1, 77, 16)
    with torch.no_grad():
        latent = prior.encode(image)
        base = latent, prior.epsilon(latent, 999, text)
        with prior.using("generator"):
            adapted = prior.encode(image), prior.epsilon(latent, 999, text)
    assert all(torch.equal(one, other) for one, other in zip(base, adapted, strict=True))


def test_at_rank_eight_the_scale_is_one():
    prior = DiffusionPrior.build(TINY)
    prior.add_role("generator", 8, full=False)
    assert {float(s) for layer in prior.unet_adapters.layers for s in layer.scaling.values()} == {1.0}
    a, b = torch.randn(8, 3), torch.randn(5, 8)
    assert torch.allclose(change(a, b), b @ a, atol=1e-6)


@pytest.fixture(scope="module")
def acting() -> DiffusionPrior:
    prior = tiny_prior(fake=True)
    shaken(prior.parameters_of("generator"), seed=1)
    shaken(prior.parameters_of("fake"), seed=2)
    return prior


def epsilon(prior: DiffusionPrior, role: str | None, parts=None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(1, 77, 16, generator=generator)
    with torch.no_grad(), prior.using(role, parts):
        return prior.epsilon(latent, torch.tensor([999, 20]), text)


def test_roles_do_not_touch_each_other(acting: DiffusionPrior):
    base = epsilon(acting, None)
    plain = tiny_prior()
    assert torch.equal(base, epsilon(plain, None))
    alone = tiny_prior()
    shaken(alone.parameters_of("generator"), seed=1)
    assert torch.equal(epsilon(acting, "generator"), epsilon(alone, "generator"))
    assert not torch.allclose(epsilon(acting, "fake"), base, atol=1e-3)
    assert torch.equal(epsilon(acting, None), base)


def test_every_part_of_a_role_acts(acting: DiffusionPrior):
    """One adapter alone is another network than all three (official code: trap 3)."""
    everything = epsilon(acting, "fake")
    for part in ("encoder", "decoder", "others"):
        alone = epsilon(acting, "fake", [part])
        assert not torch.allclose(alone, everything, atol=1e-4)
        assert not torch.allclose(alone, epsilon(acting, None), atol=1e-4)


def test_the_fake_score_has_the_first_convolution_of_the_base(acting: DiffusionPrior):
    conv = acting.unet_adapters.conv
    assert conv is not None
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        seen = {}
        for role in (None, "generator", "fake"):
            with acting.using(role):
                seen[role] = conv(x)
    assert torch.equal(seen[None], seen["fake"])
    assert not torch.allclose(seen[None], seen["generator"], atol=1e-3)


def test_switching_roles_changes_nothing_that_is_trained(acting: DiffusionPrior):
    chosen = acting.parameters_of("generator")
    for parameter in chosen:
        parameter.requires_grad_(True)
    flags = {name: p.requires_grad for name, p in acting.named_parameters()}
    with acting.using("fake"):
        assert flags == {name: p.requires_grad for name, p in acting.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in acting.named_parameters()}
    for parameter in chosen:
        parameter.requires_grad_(False)


def test_layers_are_recomputed_with_the_role_that_acted():
    """Gradients with checkpointing equal those without, also when another role acts in between."""

    def gradients(*, recompute: bool) -> list[torch.Tensor]:
        prior = tiny_prior(fake=True)
        shaken(prior.parameters_of("generator"), seed=1)
        shaken(prior.parameters_of("fake"), seed=2)
        if recompute:
            prior.save_memory()
        prior.train()
        chosen = prior.parameters_of("generator")
        for parameter in chosen:
            parameter.requires_grad_(True)
        torch.manual_seed(5)
        image, text = torch.rand(1, 3, 16, 16) * 2 - 1, torch.randn(1, 77, 16)
        with prior.using("generator"):
            latent = prior.encode(image)
            out = prior.epsilon(latent, 999, text)
        with torch.no_grad(), prior.using("fake"):
            prior.epsilon(out, 500, text)
        with prior.using("fake"):
            prior.decode(out).square().mean().backward()
        return [parameter.grad for parameter in chosen]

    for one, other in zip(gradients(recompute=False), gradients(recompute=True), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_merged_equals_active():
    prior = tiny_prior()
    shaken(prior.parameters_of("generator"), seed=1)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        with prior.using("generator"):
            active = prior.encode(image)
        noise = epsilon(prior, "generator")
        state = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
        prior.settle("generator")
        with prior.using("generator"):
            merged = prior.encode(image)
    assert float((merged - active).abs().max()) < 1e-5
    assert float((epsilon(prior, "generator") - noise).abs().max()) < 1e-5
    held = {name for name in state if "lora_" in name}
    assert all(torch.equal(prior.state_dict()[name], state[name]) for name in held)
    with pytest.raises(UsageError, match="load the model anew"):
        epsilon(prior, None)


def test_our_merge_agrees_with_pefts():
    prior = tiny_prior()
    shaken(prior.parameters_of("generator"), seed=1)
    for layer in prior.unet_adapters.layers + prior.vae_adapters.layers:
        for name in layer.lora_A:
            ours = change(layer.lora_A[name].weight, layer.lora_B[name].weight)
            assert torch.allclose(layer.get_delta_weight(name), ours, atol=1e-6)


def test_the_merge_of_a_convolution_is_the_formula():
    """dW[o, i, y, x] = (8 / r) sum_k B[o, k] A[k, i, y, x], entry by entry."""
    a, b = torch.randn(4, 3, 3, 3), torch.randn(5, 4, 1, 1)
    expected = torch.einsum("ok,kiyx->oiyx", b[..., 0, 0], a) * (ALPHA / 4)
    assert torch.allclose(change(a, b), expected, atol=1e-5)


def test_state_goes_round(acting: DiffusionPrior):
    other = tiny_prior()
    other.load_state_dict(acting.state_dict())
    assert torch.equal(epsilon(other, "generator"), epsilon(acting, "generator"))
    assert not any(".fake_" in name for name in acting.state_dict())


def test_a_missing_tensor_is_noticed():
    prior = tiny_prior()
    prior.whole = False
    state = prior.state_dict()
    state.pop(next(iter(state)))
    with pytest.raises(RuntimeError, match="Missing key"):
        prior.load_state_dict(state)


def test_low_precision_runs_without_autocast():
    prior = tiny_prior()
    shaken(prior.parameters_of("generator"), seed=1)
    exact = epsilon(prior, "generator")
    prior.settle("generator", torch.bfloat16)
    assert {p.dtype for n, p in prior.unet.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        cast = epsilon(prior, "generator")
    assert cast.dtype == torch.bfloat16
    assert float((cast.float() - exact).abs().max()) < 0.1 * float(exact.abs().max())
    assert isinstance(prior.unet, nn.Module)
