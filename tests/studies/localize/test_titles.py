"""What charts call the members of a grid."""

from __future__ import annotations

from types import SimpleNamespace

from emvfm.studies.localize.titles import backbone_titles, run_titles

WEIGHTS = "ViT-S/14 (other-weights)"


def _run(asked: str, made: str, channels: str = "", source: str = "cells") -> SimpleNamespace:
    return SimpleNamespace(
        backbone=made, member=SimpleNamespace(backbone=asked, channels=channels, source=source)
    )


def test_a_file_of_other_weights_is_not_called_by_the_name_of_the_architecture() -> None:
    runs = [_run("dinov2_vits14", WEIGHTS, way) for way in ("map", "mean")]
    assert backbone_titles(runs) == [WEIGHTS] * 2
    assert run_titles(runs) == [f"{WEIGHTS} · map", f"{WEIGHTS} · mean"]


def test_what_the_store_calls_alike_is_told_apart_by_what_was_asked_for() -> None:
    runs = [
        _run("dinov2_vits14, input_size 56", WEIGHTS),
        _run("dinov2_vits14, input_size 112", WEIGHTS),
        _run("pixel:all", "pixel:all"),
    ]
    assert backbone_titles(runs) == [f"{WEIGHTS}, input_size 56", f"{WEIGHTS}, input_size 112", "pixel:all"]


def test_a_table_is_called_by_its_file() -> None:
    assert run_titles([_run("", "x.npz", source="/some/where/x.npz")]) == ["x.npz"]
