"""Tables and figures from results; needs no torch."""
