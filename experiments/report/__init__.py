"""What all experiments asked and measured, from the results that are kept beside them."""
