"""What people read about a bundle: the HTML report and the model card."""
