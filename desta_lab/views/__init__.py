"""Figures, cards, panels and pages, and how they are saved."""

ALSO_VARIABLE = "DESTA_LAB_ALSO"  # names the forms in which figures and tables are saved too
