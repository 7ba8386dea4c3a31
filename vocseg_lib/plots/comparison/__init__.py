"""Two models under every rule, an image that explains a flip, and what a study can show."""
