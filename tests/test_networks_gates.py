"""Gates: features of scores, what a matrix does to an adapter, folding, which module is in which block."""

from collections import Counter

import pytest
import torch
from torch import nn

pytest.importorskip("peft")

from onestep.core.errors import UsageError
from onestep.methods.s3diff import S3diffConfig
from onestep.networks.adapters import Adapters
from onestep.networks.gates import (
    BlockGates,
    Gates,
    Gating,
    change,
    fourier,
    gate,
    unet_block,
    unet_targets,
    vae_block,
)

RANK = 4


class Net(nn.Module):
    """A strided convolution in one block, a linear layer in another."""

    def __init__(self):
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.Conv2d(3, 5, 3, 2, 1)])
        self.mid_block = nn.Linear(5, 6)

    def forward(self, x):
        return self.mid_block(self.down_blocks[0](x).flatten(2).transpose(1, 2))


def block(name: str) -> int:
    return {"down_blocks.0": 0, "mid_block": 1}[name]


@pytest.fixture
def gated() -> tuple[Net, Adapters, Gating]:
    torch.manual_seed(0)
    net = Net()
    adapters = Adapters(net, {"": ["down_blocks.0", "mid_block"]})
    adapters.add("generator", RANK, prefix="default")
    with torch.no_grad():
        for parameter in adapters.parameters("generator"):
            parameter.normal_()
    return net, adapters, Gating(adapters, "generator", block)


def matrices(batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 2, RANK, RANK, generator=torch.Generator().manual_seed(seed))


def image(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 6, generator=torch.Generator().manual_seed(2))


def run(gated, x, m):
    net, adapters, gating = gated
    with torch.no_grad(), adapters.using("generator"), gating.using(m):
        return net(x)


# features


def test_fourier_features_are_sines_and_cosines_of_blur_then_of_noise():
    w = torch.tensor([0.25, 1.0])
    wanted = torch.tensor([1.0, 0.0, 0.0, 1.0])  # angles pi/2 and 2 pi
    found = fourier(torch.tensor([[1.0, 0.0]]), w)
    torch.testing.assert_close(found, torch.cat([wanted, torch.tensor([0.0, 0.0, 1.0, 1.0])])[None])
    swapped = fourier(torch.tensor([[0.0, 1.0]]), w)
    torch.testing.assert_close(swapped[0], torch.cat([found[0, 4:], found[0, :4]]))


def test_matrices_by_hand():
    """Concatenation is degradation first; a matrix is filled row by row."""
    torch.manual_seed(0)
    gates = BlockGates(2, 3)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.normal_()
    features = torch.randn(2, 256)
    found = gates(features)
    assert found.shape == (2, 3, 2, 2)
    g = (features[1] @ gates.de_mlp[0].weight.T + gates.de_mlp[0].bias).relu()
    b = (gates.block_embeddings.weight[2] @ gates.block_mlp[0].weight.T + gates.block_mlp[0].bias).relu()
    m = torch.cat([g, b]) @ gates.fuse_mlp.weight.T + gates.fuse_mlp.bias
    torch.testing.assert_close(found[1, 2], torch.stack([m[:2], m[2:]]), atol=1e-4, rtol=1e-5)


def test_fresh_gates_are_almost_closed_and_w_is_not_trained():
    torch.manual_seed(0)
    gates = Gates(rank_vae=3, rank_unet=4)
    found = gates(torch.rand(2, 2))
    assert (found.vae.shape, found.unet.shape) == ((2, 6, 3, 3), (2, 10, 4, 4))
    assert 0 < found.unet.abs().max().item() < 1e-8
    assert "w" in gates.state_dict()
    assert "w" not in dict(gates.named_parameters())
    assert gates.w.std().item() == pytest.approx(1, abs=0.35)


def test_gates_may_begin_as_plain_adapters_that_learn_what_they_are_told():
    """Identities for all scores but for rounding; a gradient step makes them depend on the scores."""
    torch.manual_seed(0)
    gates = BlockGates(3, 2)
    gates.begin_plain()
    features = fourier(torch.tensor([[0.0, 0.0], [0.9, 0.4]]), torch.randn(64))
    found = gates(features)
    torch.testing.assert_close(found, torch.eye(3).expand(2, 2, 3, 3), atol=1e-3, rtol=0)
    optimizer = torch.optim.SGD(gates.parameters(), 1e-3)
    (found * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)).sum().backward()
    optimizer.step()
    apart = gates(features)
    assert float((apart[0] - apart[1]).detach().abs().min()) > 0.05


# products


def test_gate_is_h_times_m_on_channels_and_on_the_last_axis():
    h, m = torch.randn(2, RANK, 3, 5), torch.randn(2, RANK, RANK)
    torch.testing.assert_close(gate(h, m), torch.einsum("nkyx,nkq->nqyx", h, m))
    h = torch.randn(2, 7, RANK)
    torch.testing.assert_close(gate(h, m), torch.einsum("nlk,nkq->nlq", h, m))


def test_gates_of_another_batch_are_refused():
    with pytest.raises(RuntimeError):
        gate(torch.randn(4, RANK, 3, 3), torch.randn(2, RANK, RANK))
    with pytest.raises(RuntimeError):
        gate(torch.randn(4, 3, RANK), torch.randn(2, RANK, RANK))


def test_identity_gates_are_plain_adapters_bit_for_bit(gated):
    plain = run(gated, image(2), None)
    assert torch.equal(run(gated, image(2), torch.eye(RANK).expand(1, 2, RANK, RANK)), plain)


def test_zero_gates_are_the_base(gated):
    net, adapters, _ = gated
    with torch.no_grad(), adapters.using(None):
        base = net(image(2))
    torch.testing.assert_close(run(gated, image(2), torch.zeros(1, 2, RANK, RANK)), base, atol=1e-6, rtol=0)
    assert float((run(gated, image(2), None) - base).abs().max()) > 0.1


def written_out(gated, x, m, transpose: bool):
    """The same network with weights W + s B M^T A, by a plain sum over indices."""
    _, _, gating = gated
    weights = {}
    for one in gating.gated:
        a, b = one.layer.lora_A["default"].weight, one.layer.lora_B["default"].weight
        matrix = m[0, one.block]
        matrix = matrix if transpose else matrix.T  # [k, q]: A's side first
        b = b.reshape(len(b), RANK)
        change = torch.einsum("oq,kq,k...->o...", b, matrix, a)
        weights[one.block] = one.host.weight + 8 / RANK * change
    conv, linear = gating.gated[0].host, gating.gated[1].host
    with torch.no_grad():
        hidden = nn.functional.conv2d(x, weights[0], conv.bias, stride=2, padding=1)
        return nn.functional.linear(hidden.flatten(2).transpose(1, 2), weights[1], linear.bias)


def test_the_update_of_a_weight_is_s_b_m_transposed_a(gated):
    m = matrices()
    found = run(gated, image(), m)
    torch.testing.assert_close(found, written_out(gated, image(), m, transpose=True), atol=1e-4, rtol=1e-5)
    wrong = written_out(gated, image(), m, transpose=False)
    assert float((found - wrong).abs().max()) > 1


def test_each_image_has_its_own_gates(gated):
    m, x = matrices(2), image(2)
    both = run(gated, x, m)
    for index in range(2):
        alone = run(gated, x[index : index + 1], m[index : index + 1])
        torch.testing.assert_close(both[index : index + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_block_has_its_own_matrix(gated):
    m, x = matrices(), image()
    other = m.clone()
    other[:, 1] += 1
    net, adapters, gating = gated
    with torch.no_grad(), adapters.using("generator"):
        with gating.using(m):
            first = net.down_blocks[0](x)
        with gating.using(other):
            assert torch.equal(net.down_blocks[0](x), first)
    assert not torch.equal(run(gated, x, m), run(gated, x, other))


# folding


def test_folded_is_live_within_rounding_and_unfolding_is_exact(gated):
    net, adapters, gating = gated
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    m, x = matrices() * 0.1, image()
    live = run(gated, x, m)
    gating.fold(m)
    assert gating.folded
    with torch.no_grad(), adapters.using("generator"):
        torch.testing.assert_close(net(x), live, atol=1e-5, rtol=1e-5)
    gating.fold(m)  # again: from the plain weights, not on top
    with torch.no_grad(), adapters.using("generator"):
        torch.testing.assert_close(net(x), live, atol=1e-5, rtol=1e-5)
    gating.unfold()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(run(gated, x, m), live)


def test_weights_folded_in_inference_mode_can_be_trained_afterwards(gated):
    net, adapters, gating = gated
    with torch.inference_mode():
        gating.fold(matrices())
        gating.unfold()
    for parameter in adapters.parameters("generator"):
        parameter.requires_grad_(True)
    with adapters.using("generator"):
        net(image()).sum().backward()
    assert all(parameter.grad is not None for parameter in adapters.parameters("generator"))


def test_a_batch_cannot_be_folded(gated):
    with pytest.raises(UsageError, match="2 images"):
        gated[2].fold(matrices(2))


def test_change_of_an_identity_is_that_of_a_plain_adapter():
    from onestep.networks.adapters import change as plain

    a, b = torch.randn(RANK, 3, 3, 3), torch.randn(5, RANK, 1, 1)
    torch.testing.assert_close(change(a, b, torch.eye(RANK)), plain(a, b))


# the published shape


@pytest.fixture(scope="module")
def outline():
    return S3diffConfig().outline()


def test_where_the_published_adapters_sit(outline):
    """Section 1.2: 257 and 31 modules, by block, and what each kind is."""
    unet, vae = outline.unet_gating, outline.vae_gating
    counts = Counter(one.block for one in unet.gated)
    assert [counts[j] for j in range(10)] == [29, 30, 30, 4, 16, 10, 46, 46, 45, 1]
    counts = Counter(one.block for one in vae.gated)
    assert [counts[j] for j in range(6)] == [5, 6, 6, 4, 8, 2]
    assert Counter(isinstance(one.host, nn.Linear) for one in unet.gated) == {False: 65, True: 192}
    assert Counter(isinstance(one.host, nn.Linear) for one in vae.gated) == {False: 27, True: 4}
    assert "conv_in" not in unet_targets(outline.prior.unet)


def test_what_the_published_generator_trains(outline):
    """Items 1 and 3: counts, and the scales 0.25 and 0.5 of every layer."""
    adapters = [outline.prior.unet_adapters, outline.prior.vae_adapters]
    own = [sum(p.numel() for p in one.parameters("generator")) for one in adapters]
    conv_in = sum(p.numel() for p in adapters[0].conv.held_by("generator"))
    gates = sum(p.numel() for p in outline.gates.parameters())
    assert (own[0] - conv_in, own[1], conv_in, gates) == (32_434_304, 1_477_168, 11_840, 551_808)
    assert sum(p.numel() for p in outline.trained()) == 34_475_120
    assert {one.layer.scaling["default"] for one in outline.unet_gating.gated} == {0.25}
    assert {one.layer.scaling["vae_skip"] for one in outline.vae_gating.gated} == {0.5}


def test_names_of_blocks():
    assert [unet_block(f"{kind}_blocks.{i}.x") for kind in ("down", "up") for i in (0, 3)] == [0, 3, 5, 8]
    assert (unet_block("mid_block.resnets.0.conv1"), unet_block("conv_out")) == (4, 9)
    assert [vae_block(f"encoder.down_blocks.{i}.resnets.1.conv2") for i in range(4)] == [0, 1, 2, 3]
    names = ("encoder.mid_block.attentions.0.to_q", "encoder.conv_in", "encoder.conv_out")
    assert [vae_block(name) for name in names] == [4, 5, 5]
