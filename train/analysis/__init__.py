"""What is computed from predictions and features: NumPy and scikit-learn, no training."""
