"""Members of a localisation grid: backbones with options of their own, ways of channels, presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from emvfm.errors import UsageError
from emvfm.localization.options import PRESETS, HeadOptions
from emvfm.studies.localize.members import members_of, parse_backbone
from emvfm.studies.localize.options import LocalizeOptions, head_of, protocol_of, settle_preset


def test_options_of_a_backbone_stand_after_its_name() -> None:
    assert parse_backbone("dinov2") == ("dinov2", {})
    name, own = parse_backbone("timm:vit_s,init-seed=3,layers=[2,5],input_size=224")
    assert (name, own) == ("timm:vit_s", {"init_seed": 3, "layers": [2, 5], "input_size": "224"})
    assert parse_backbone("x,map=red=gfp,green=dna,fill=mean")[1] == {
        "map": "red=gfp,green=dna",
        "fill": "mean",
    }
    for wrong in ("", ",untrained", "x,wieghts=a", "x,", "x,seed=3", "x,channels=map", "x,layers=[2"):
        with pytest.raises(UsageError):
            parse_backbone(wrong)


def test_every_backbone_goes_with_every_way_and_a_baseline_once() -> None:
    config = LocalizeOptions(
        backbone=("dinov2,weights=a.pth", "dinov2,untrained", "pixel:all"),
        channels=("replicate", "map"),
        map="red=gfp",
        pool="cls",
    )
    members = members_of(config, ["cells"])
    assert [member.name for member in members] == [
        "dinov2 · replicate", "dinov2 · map", "dinov2, untrained · replicate", "dinov2, untrained · map", "pixel:all",
    ]  # fmt: skip
    assert [m.options.map for m in members[:2]] == [None, "red=gfp"]
    assert members[0].options.weights == Path("a.pth")
    assert [m.options.untrained for m in members[1:3]] == [False, True]
    assert {m.options.pool for m in members} == {"cls"}
    assert members[4].channels == ""


def test_names_tell_members_apart_and_twice_the_same_is_refused() -> None:
    sizes = LocalizeOptions(
        backbone=("dinov2,weights=a.pth,input_size=112", "dinov2,weights=b.pth,input_size=112")
    )
    assert [m.name for m in members_of(sizes, ["cells"])] == ["dinov2, weights a", "dinov2, weights b"]
    with pytest.raises(UsageError, match="twice"):
        members_of(LocalizeOptions(backbone=("dinov2", "dinov2")), ["cells"])
    several = members_of(LocalizeOptions(), ["cells", "folder/a.csv"])
    assert [m.name for m in several] == ["dinov2 on cells", "a.csv"]
    with pytest.raises(UsageError, match="nothing to localise"):
        members_of(LocalizeOptions(), [])
    with pytest.raises(UsageError, match="channels"):
        members_of(LocalizeOptions(channels=("sideways",)), ["cells"])


@pytest.mark.parametrize("name", ["dino4cells", "subcell", "knn"])
def test_a_preset_fills_in_what_is_left_alone(name: str) -> None:
    head, protocol = PRESETS[name]
    settled = settle_preset(LocalizeOptions(preset=name))  # type: ignore[arg-type]
    assert (head_of(settled), protocol_of(settled)) == (head, protocol)
    own = settle_preset(LocalizeOptions(preset=name, dropout=0.1, folds=3))  # type: ignore[arg-type]
    assert (head_of(own), protocol_of(own)) == (replace(head, dropout=0.1), replace(protocol, folds=3))
    assert head_of(settle_preset(LocalizeOptions())) == HeadOptions()
