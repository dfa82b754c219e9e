"""What the machine offers, and what is said when it lacks something."""

import pytest
import torch

from onestep import runtime
from onestep.core.errors import UsageError

CPU = torch.device("cpu")


def test_devices_are_found_by_name():
    assert runtime.pick_device("cpu") == CPU
    assert runtime.pick_device("auto").type in ("cpu", "cuda", "mps", "xpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", ""])
def test_absent_devices_are_refused_with_those_that_are_there(name):
    with pytest.raises(UsageError, match="this machine has cpu"):
        runtime.pick_device(name)


def test_precision_is_chosen_by_device_and_model(monkeypatch):
    monkeypatch.setattr(runtime, "native_bfloat16", lambda _: True)
    assert runtime.pick_dtype(None, CPU, half=True) == torch.bfloat16
    assert runtime.pick_dtype("auto", CPU, half=False) == torch.float32
    monkeypatch.setattr(runtime, "native_bfloat16", lambda _: False)
    assert runtime.pick_dtype("auto", CPU, half=True) == torch.float32
    assert runtime.pick_dtype("bfloat16", CPU, half=False) == torch.bfloat16
    assert runtime.pick_dtype(torch.float32, CPU, half=True) == torch.float32


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("int8", "no precision is called 'int8'"),
        (torch.float64, "no precision"),
        ("float16", "slower on a CPU"),
    ],
)
def test_precisions_that_do_not_work_are_refused(wanted, says):
    with pytest.raises(UsageError, match=says):
        runtime.pick_dtype(wanted, CPU, half=True)


def test_bfloat16_counts_as_native_only_with_its_instructions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    assert not runtime.native_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert runtime.native_bfloat16(CPU)


def test_the_smaller_limit_of_host_and_container_counts(monkeypatch):
    monkeypatch.setattr(runtime, "_host_memory", lambda: 8_000)
    monkeypatch.setattr(runtime, "_container_memory", lambda: 5_000)
    assert runtime.free_memory(CPU) == 5_000
    monkeypatch.setattr(runtime, "_container_memory", lambda: None)
    assert runtime.free_memory(CPU) == 8_000
    monkeypatch.setattr(runtime, "_host_memory", lambda: None)
    assert runtime.free_memory(CPU) is None
    assert runtime.free_memory(torch.device("meta")) is None


def test_free_memory_of_this_machine_is_plausible():
    free = runtime.free_memory(CPU)
    assert free is None or 2**20 < free < 2**50


def test_running_out_of_memory_is_recognised_as_torch_really_says_it():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert runtime.out_of_memory(caught.value)
    assert runtime.out_of_memory(MemoryError())
    assert runtime.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert runtime.out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"))
    assert runtime.out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried"))
    assert not runtime.out_of_memory(RuntimeError("shapes do not match"))
    assert not runtime.out_of_memory(ValueError("can't allocate memory"))


def test_what_torch_holds_of_an_accelerator_and_does_not_use_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3_000, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1_000)
    assert runtime.free_memory(torch.device("cuda")) == 7_000
