"""Figures, one function each, drawn from data frames; `style.save` writes them."""
