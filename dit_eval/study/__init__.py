"""A study: trainings and evaluations of a plan, each done once, on any machine."""
