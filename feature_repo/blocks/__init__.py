"""The arithmetic of the ranking features: one function per block of `feature_repo.ranking_table`."""
