"""What of a rule can be read out of the layers."""
