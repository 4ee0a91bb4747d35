"""Analysis of finished and unfinished runs: data frames, similarity, figures, tests of the papers' claims, a report."""
