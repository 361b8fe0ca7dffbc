"""Short names of representations: what an option takes back to its default says nothing of a backbone."""

from __future__ import annotations

from emvfm.studies.bench.representations import _set_apart
from emvfm.studies.localize.members import parse_backbone


def test_a_name_tells_what_sets_a_backbone_apart_and_no_more() -> None:
    _, own = parse_backbone("dinov2,weights=a.safetensors,untrained,init_seed=2")
    assert _set_apart(own) == ["untrained", "init_seed 2"]
    _, own = parse_backbone("pixel:all,layers=null,input_size=native")
    assert _set_apart(own) == ["input_size native"]
