"""How objects lie and what shape they have, from label masks or tables of cells; no intensity enters."""
