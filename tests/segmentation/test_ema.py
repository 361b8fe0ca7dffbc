"""The moving average against its closed form; swapping, resuming and refusing."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from emvfm.errors import UsageError
from emvfm.segmentation.ema import MovingAverage, decay_at


def _named(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters())


def _walk(parameter: nn.Parameter, average: MovingAverage, values: list[float]) -> None:
    for value in values:
        with torch.no_grad():
            parameter.fill_(value)
        average.update()


def test_the_average_is_the_weighted_sum_of_all_values() -> None:
    parameter, decay = nn.Parameter(torch.tensor([5.0])), 0.5
    average = MovingAverage([("w", parameter)], decay)
    values = [1.0, -2.0, 4.0, 0.5, 3.0, 8.0, -1.0, 2.0]
    _walk(parameter, average, values)
    want = 5.0
    for n, value in enumerate(values):
        share = decay_at(n, decay)
        want = share * want + (1 - share) * value
    assert average.state_dict()["averages"]["w"].item() == pytest.approx(want, rel=1e-6)


def test_once_warm_the_weights_are_powers_of_the_decay() -> None:
    parameter, decay, n = nn.Parameter(torch.tensor([0.0])), 0.8, 60
    average = MovingAverage([("w", parameter)], decay)
    _walk(parameter, average, [0.0] * 100)
    _walk(parameter, average, [1.0] * n)
    assert average.state_dict()["averages"]["w"].item() == pytest.approx(1 - decay**n, rel=1e-5)


def test_the_decay_warms_up_to_its_value_and_never_above() -> None:
    found = [decay_at(n, 0.99) for n in range(2000)]
    assert found[0] == 0.1
    assert found == sorted(found)
    assert found[-1] == 0.99
    assert decay_at(10, 0.0) == 0.0


def test_without_decay_the_average_is_the_parameter_and_a_constant_stays() -> None:
    module = nn.Linear(3, 2)
    for decay in (0.0, 0.9):
        average = MovingAverage(_named(module), decay)
        for _ in range(5):
            average.update()
        for name, value in average.state_dict()["averages"].items():
            assert torch.allclose(value, module.get_parameter(name), atol=1e-7)


def test_half_precision_parameters_are_averaged_in_float32() -> None:
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.bfloat16))
    average = MovingAverage([("w", parameter)], 0.999)
    _walk(parameter, average, [1.0] * 9000 + [2.0])
    found = average.state_dict()["averages"]["w"]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1.001, abs=1e-5)
    with average.swapped():
        assert parameter.dtype == torch.bfloat16


def test_swapping_shows_the_averages_and_gives_everything_back_even_after_an_error() -> None:
    module = nn.Linear(3, 2)
    average = MovingAverage(_named(module), 0.9)
    with torch.no_grad():
        module.weight.add_(1)
    average.update()
    before, held = module.weight.detach().clone(), module.weight

    def fail() -> None:
        with average.swapped():
            assert torch.equal(module.weight, average.state_dict()["averages"]["weight"])
            assert not torch.equal(module.weight, before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert module.weight is held
    assert torch.equal(module.weight, before)


def test_a_resumed_average_goes_on_to_the_bit() -> None:
    torch.manual_seed(0)
    module, twin = nn.Linear(4, 4), nn.Linear(4, 4)
    steps = [torch.randn(4, 4) for _ in range(20)]

    def run(target: nn.Linear, average: MovingAverage, values: list[torch.Tensor]) -> None:
        for value in values:
            with torch.no_grad():
                target.weight.copy_(value)
            average.update()

    whole = MovingAverage([("w", module.weight)], 0.9)
    run(module, whole, steps[:7])
    stream = io.BytesIO()
    torch.save(whole.state_dict(), stream)
    stream.seek(0)
    resumed = MovingAverage([("w", twin.weight)], 0.9)
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    run(module, whole, steps[7:])
    run(twin, resumed, steps[7:])
    assert torch.equal(resumed.state_dict()["averages"]["w"], whole.state_dict()["averages"]["w"])
    assert resumed.updates == whole.updates == 20


def test_a_state_is_a_copy() -> None:
    module = nn.Linear(2, 2)
    average = MovingAverage(_named(module), 0.5)
    state = average.state_dict()
    kept = {name: value.clone() for name, value in state["averages"].items()}
    other = MovingAverage(_named(module), 0.5)
    other.load_state_dict(state)
    with torch.no_grad():
        module.weight.add_(1)
    average.update()
    other.update()
    assert all(torch.equal(state["averages"][name], value) for name, value in kept.items())


def test_states_of_others_and_numbers_out_of_range_are_refused() -> None:
    module = nn.Linear(2, 2)
    average = MovingAverage(_named(module))
    before = average.state_dict()
    bad = (MovingAverage(_named(nn.Linear(2, 3))).state_dict(), {}, {"averages": before["averages"]})
    for state in bad:
        with pytest.raises(UsageError, match="EMA"):
            average.load_state_dict(state)
    assert all(
        torch.equal(value, before["averages"][n]) for n, value in average.state_dict()["averages"].items()
    )
    for decay in (-0.1, 1.0):
        with pytest.raises(UsageError, match="decay"):
            MovingAverage(_named(module), decay)
    with pytest.raises(UsageError):
        MovingAverage([])
    with pytest.raises(UsageError):
        MovingAverage([("w", module.weight), ("w", module.bias)])
