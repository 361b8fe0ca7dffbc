"""From tile embeddings to gene expression: counts, genes, folds, regressors, correlations and paired intervals."""
