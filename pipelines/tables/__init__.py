"""Tables: reading files as text, columns as features, and the preprocessing that training and serving share."""
