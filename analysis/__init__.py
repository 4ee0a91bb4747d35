"""What finished and unfinished runs say: data frames, similarity, figures, the paper's claims, a report."""
