"""Analysis of predictions and features with NumPy and scikit-learn."""
