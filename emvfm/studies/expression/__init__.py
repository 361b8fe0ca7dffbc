"""From a dataset of tiles and tables of counts to the scores of ``bench expression``."""
