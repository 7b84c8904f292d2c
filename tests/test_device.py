from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import cases, refused

from ntt.errors import ConfigError
from ntt.models.batching import BatchRunner
from ntt.models.compiling import _FastProducts, compiled, round_weights
from ntt.models.device import (
    PRECISIONS,
    autocast,
    check_compiler,
    check_precision,
    denormals_are_flushed,
    effective_precision,
    has_tensor_float,
    resolve_device,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 1)


@pytest.fixture
def two_gpus(monkeypatch) -> None:
    """Let torch say that there are two CUDA devices of compute capability 7.5."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card T")


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))


@pytest.mark.usefixtures("no_gpu")
def test_auto_and_cpu_without_a_gpu():
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU


@pytest.mark.usefixtures("two_gpus")
def test_auto_and_cuda_leave_the_index_to_the_process():
    for name, index in {"auto": None, "cuda": None, "cuda:0": 0, "cuda:1": 1}.items():
        assert (resolve_device(name).type, resolve_device(name).index) == ("cuda", index)
    with refused(ConfigError, "cuda:2: this computer has 2 CUDA device(s), numbered 0 to 1. Use one of"):
        resolve_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
@cases("name", "problem")(
    ("cuda", "runtime.device=cuda: no CUDA device is available.*Use runtime.device=cpu or auto"),
    ("cuda:0", "runtime.device=cuda:0: no CUDA device is available"),
    ("mps", "runtime.device=mps: this computer has no usable Metal device"),
)
def test_devices_that_are_not_there_are_refused(name, problem):
    with pytest.raises(ConfigError, match=problem):
        resolve_device(name)


@cases("name")("", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:256", "cuda:1:2", "mps:0", "CUDA")
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert str(caught.value) == f"runtime.device={name} is not known. Use one of: auto, cpu, cuda, cuda:N, mps."


@cases("precision", "problem")(
    ("float16", r"precision=float16 is not available on the CPU\. Use runtime.precision=float32 or"),
    ("tf32", r"precision=tf32 exists on CUDA devices only, and runtime.device=cpu\. Use"),
)
def test_precisions_the_cpu_lacks(precision, problem):
    for check in (check_precision, effective_precision, lambda *given: autocast(*given).__enter__()):
        with pytest.raises(ConfigError, match=problem):
            check(precision, CPU)


def test_bfloat16_and_tf32_need_compute_capability_8_0(two_gpus, monkeypatch):
    check_precision("float32", CUDA)
    check_precision("float16", CUDA)
    for precision in ("tf32", "bfloat16"):
        with refused(ConfigError, f"runtime.precision={precision} needs ", " 8.0 or more; Card T has 7.5. Use"):
            check_precision(precision, CUDA)
    assert not has_tensor_float(CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert has_tensor_float(CUDA)
    assert not has_tensor_float(CPU)
    for precision in PRECISIONS:
        check_precision(precision, CUDA)


@cases("precision", "dtype")(("float32", torch.float32), ("bfloat16", torch.bfloat16))
def test_matrix_products_have_the_precision_asked_for(precision, dtype):
    with autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_float32_means_float32_and_bfloat16_is_replaced_where_the_cpu_has_none(monkeypatch, caplog):
    with autocast("bfloat16", CPU), autocast("float32", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert effective_precision("bfloat16", CPU) == "bfloat16"
    assert not caplog.records
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert effective_precision("bfloat16", CPU) == "float32"
    assert "computing in float32" in caplog.text
    assert effective_precision("float32", CPU) == "float32"


def _tensor_float_settings() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def _settings_then_failure(inside: list[tuple[bool, bool]]) -> None:
    with autocast("float32", CPU):
        inside.append(_tensor_float_settings())
        raise ZeroDivisionError


@cases("before")((False, True), (True, False))
def test_tensor_float_settings_are_off_inside_and_restored(before):
    own, inside = _tensor_float_settings(), []
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    try:
        with pytest.raises(ZeroDivisionError):
            _settings_then_failure(inside)
        assert inside == [(False, False)]
        assert _tensor_float_settings() == before
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = own


@cases("before")(False, True)
def test_denormals_are_flushed_inside_and_the_callers_setting_is_restored(before):
    denormals = torch.full((4,), 1e-40)
    torch.set_flush_denormal(before)
    try:
        with autocast("float32", CPU):
            assert float((denormals * 1).view(torch.int32).sum()) == 0
            assert all(BatchRunner(1).run(lambda start, stop: denormals_are_flushed(), 4, workers=2))
        assert denormals_are_flushed() == before
    finally:
        torch.set_flush_denormal(False)
    assert BatchRunner(1).run(lambda start, stop: denormals_are_flushed(), 2, workers=2) == [True, True]
    assert not denormals_are_flushed()


def test_denormals_are_flushed_in_all_of_torchs_threads_and_only_inside():
    def are_flushed() -> list[bool]:
        small = torch.full((1 << 17,), 1e-30)
        return ((small * 1e-10) == 0).unique().tolist()

    def compute() -> list[list[bool]]:
        torch.set_num_threads(2)
        before = are_flushed()  # starts torch's threads
        with autocast("float32", CPU):
            inside = are_flushed()
        return [before, inside, are_flushed()]

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1) as pool:  # each thread of Python has its own threads of torch
            assert pool.submit(compute).result() == [[False], [True], [False]]
        assert compute() == [[False], [True], [False]]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tf32_differs_from_float32_on_a_gpu():
    device = resolve_device("cuda")
    a = torch.randn(256, 256, device=device)
    with autocast("float32", device):
        exact = a @ a
    with autocast("tf32", device):
        rough = a @ a
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match="needs a C.. compiler on the CPU, and no-such-compiler is not found. Install"
    ):
        check_compiler(CPU)
    monkeypatch.setenv("CXX", "python3")
    check_compiler(CPU)
    monkeypatch.setattr("ntt.models.device.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package triton on CUDA, which is not installed"):
        check_compiler(CUDA)


def test_with_tf32_attention_is_computed_in_float16():
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    exact = F.scaled_dot_product_attention(query, key, value, scale=0.5)
    for precision, halves in (("tf32", True), ("bfloat16", False)):
        attention = _FastProducts(precision, CPU).around(partial(F.scaled_dot_product_attention, scale=0.5))
        output = attention(query, key, value)
        assert output.dtype == torch.float32
        assert torch.equal(output, exact) != halves
        torch.testing.assert_close(output, exact, rtol=2e-3, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@cases("precision")("float32", "tf32", "bfloat16")
def test_a_recorded_network_computes_the_same(precision):
    device = torch.device("cuda", 0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.GELU(), torch.nn.Flatten(2), torch.nn.Linear(16, 4)
    )
    network = network.to(device)
    tolerance = {"float32": 1e-5, "tf32": 1e-2, "bfloat16": 0}[precision]
    round_weights(network, precision, device)
    faster, plain = compiled(network, precision, device), autocast(precision, device)(network)
    for seed in range(3):
        values = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed)).to(device)
        with torch.no_grad():
            torch.testing.assert_close(faster(values), plain(values), rtol=0, atol=tolerance)
