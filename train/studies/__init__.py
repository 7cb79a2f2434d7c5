"""Studies: settings × folds × seeds as one list of runs, and what they show."""
