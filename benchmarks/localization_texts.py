"""What docs/results-localization.md says beside its numbers: on the data, their traps, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLOSING", "INTRODUCTION", "TEXTS", "Text"]


@dataclass(frozen=True)
class Text:
    """Title of a section, what was done, and what to know before believing it."""

    title: str
    what: str
    trap: str


INTRODUCTION = (
    "Labels of real microscopy, read by logistic regression, and in a section of its own by the head of DINO4Cells, "
    "from the mean patch token of frozen backbones: ViT-S/14 (imgfocus), a ViT-S/14 that descends from DINOv2 by further "
    "training for saliency and whose numbers are not DINOv2's; ViT-Ti/16 of timm, trained on ImageNet; ViT-S/14 "
    "untrained, several seeds; and statistics of pixels (`pixel:all`). Scores are macro F1 over the classes that are "
    "there, unless a table says otherwise; a standard deviation over folds stands with ddof 0 and with ddof 1, and is no "
    "standard error. What the words mean, and how to run this on data of your own: [Localisation](localization.md)."
)

TEXTS = {
    "bbbc013": Text(
        "BBBC013: where FKHR-GFP is in a cell",
        "U2OS cells with two channels, FKHR-GFP and DNA (Ljosa et al. 2012): GFP in the cytoplasm, in the nucleus, or no "
        "GFP. Learned on wells A01 and A12, tested on B01 and B12. Of 794 cells the 596 without a label were left out "
        "before anything was computed. Cells are cut out of their padding and brought to 56 px a side. `map` puts GFP "
        "into red and DNA into green, blue is black; `random-map` deals the two channels to two slots by a seed.",
        "Label and well nearly coincide: cells with GFP in the cytoplasm are all of column 1, with GFP in the nucleus all "
        "of column 12. So a backbone that knows the column of a cell's treatment, by brightness or by density, would "
        "score as well; only rows were exchanged between training and test. The interval draws cells as if each stood "
        "for itself, but they are of two wells: it is too narrow by an unknown amount.",
    ),
    "bbbc021": Text(
        "BBBC021: a treatment, by plate",
        "MCF-7 cells with DNA and two cytoskeleton channels (Caie et al. 2010): DMSO and cycloheximide at 5, 15 and 50 "
        "µM, which are the classes 0.0 to 50.0. The three plates that have treatments, each left out in turn, so that "
        "three folds are three plates; intervals over fields of view. Every eighth crop of the table, to keep this page "
        "within minutes of one core; crops of 68 px at 70 px a side. One plate has no 5 µM.",
        "Treatment and well coincide on every plate, and brightness alone tells treated cells from untreated ones, less "
        "so one dose from the next: `pixel:all` is the number to beat, not chance. Which of channels 1 and 2 is which "
        "stain is uncertain, so `map` is one arbitrary arrangement of them. Cells of a field were drawn, fields of a plate "
        "are not independent of each other.",
    ),
    "hpa": Text(
        "Human Protein Atlas: which stain is this",
        "200 fields with one channel each, no two of the same place: nucleus, protein, microtubules or endoplasmic "
        "reticulum (Thul et al. 2017). Five folds of fields; 512 px brought to 112 px. With one channel there is only "
        "one way into a backbone: grey in all three slots.",
        "No field is there in two channels, so nothing is held constant but the microscope: a stain is told by its "
        "texture, and by how bright it is. And the class `protein_of_interest` is no texture at all but whatever protein "
        "was stained. Antibodies and cell lines of the fields are not known here, so folds could not keep them apart.",
    ),
    "hpa-protein": Text(
        "Human Protein Atlas: where is the protein",
        "The 50 fields of the protein channel with the labels of the Kaggle competition (Ouyang et al. 2019), several a "
        "field. Labels of fewer than five fields are dropped, and fields with none of the others left out. 512 px brought "
        "to 224 px. With so few rows there is no validation split worth tuning a threshold on; macro average precision "
        "needs none, so it is what is compared, and F1 at a threshold of 0.5 stands beside it.",
        "Thirty fields, six to a fold, and classes with as few as five: the order of six rows decides, so chance is far "
        "above the share of positives, and an average precision moves by a tenth when one field changes its place. The "
        "bootstrap draws fields twice, which makes short rankings easier still; intervals are moved back by what that "
        "adds. The order of the backbones in this table means nothing; it shows that the way from a table of labels "
        "to a score works.",
    ),
    "heads": Text(
        "The head of DINO4Cells beside logistic regression",
        "The same rows, folds and embeddings, read by `mlp`, the 512-256 classifier of DINO4Cells, from which the "
        "two-stage classifier of arXiv 2602.05527 may well be taken (its layers are not known here): with this program's "
        "options, and with those of `--preset dino4cells` (balanced sampling, 100 epochs, no early stopping). One "
        "untrained twin, seed 0; channels joined (`replicate`) or mapped. Differences are paired: both heads, or both "
        "backbones, on the same draws of groups.",
        "These sets have 30 to 200 rows, one batch of the head: it takes as many steps as it has epochs, and `mlp` gives "
        "up 15 % of its few training rows to decide when to stop, which logistic regression keeps. What is said here "
        "of the head holds for sets of this size; OpenCell has 1 310 proteins.",
    ),
    "opencell": Text(
        "OpenCell: what it costs to cut proteins apart",
        "The real labels of 1 310 proteins (Cho et al. 2022), grade 2 and better, with **simulated** embeddings of four "
        "fields a protein, since the images are not at hand. First, embeddings that hold nothing but which protein it "
        "is: a nearest neighbour then scores what chance gives with whole proteins and nearly everything with proteins "
        "cut apart, and both follow in closed form from the labels. Then embeddings that hold labels and proteins, read "
        "by logistic regression at a threshold of 0.5.",
        "These are not images. The table says what folds do to a score if an embedding tells proteins apart, not how "
        "much the embeddings of a given backbone do.",
    ),
}  # fmt: skip

#: What follows, and the set that it needs.
CLOSING = (
    (
        "",
        (
            "Two small backbones that were trained on photographs, one layer, mean tokens, small images, two kinds of head. "
            "None was trained on the Human Protein Atlas or on OpenCell, and no image of OpenCell was seen: nothing here "
            "repeats or contradicts the numbers of arXiv 2602.05527, it shows the same questions put to data that are at "
            "hand."
        ),
    ),
    (
        "",
        (
            "Where training is worth something it has to beat an untrained network and the statistics of pixels, which see "
            "absolute brightness. Both differences stand in the tables, with Holm's correction within each set, not over "
            "this page. ViT-Ti is set against the untrained ViT-S, which is not its own twin."
        ),
    ),
    (
        "bbbc013",
        (
            "BBBC013 is 40 test cells of two wells, with one label a column of the plate: high scores do not say that a "
            "backbone reads where the protein is, and an interval over cells says nothing of other wells. The size at which "
            "cells are shown moves a score by as much as a way of channels, so no order of the ways follows."
        ),
    ),
    (
        "bbbc021",
        (
            "On BBBC021 treatment and well are the same thing on every plate, and statistics of pixels are hard to beat: it "
            "says whether channels and plates are handled, not which model is better."
        ),
    ),
    (
        "hpa",
        (
            "Stains of the Human Protein Atlas are a question of texture, each field with one channel only: it says "
            "nothing of channels combined. With 30 fields, its localisation labels rank nobody."
        ),
    ),
    (
        "",
        (
            "Ways of channels are compared on two sets with two or three channels, with one draw of `random-map`; "
            "intervals of different ways overlap widely unless a table says otherwise."
        ),
    ),
    (
        "",
        (
            "Differences between untrained seeds are as large as many differences between models: one untrained seed is "
            "one draw."
        ),
    ),
    (
        "",
        (
            "The leak of ungrouped folds is known, not estimated, where embeddings are simulated: there the program finds "
            "what the closed form says. On real images with one field a protein it could not be measured."
        ),
    ),
)
