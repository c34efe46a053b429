"""Language models to talk to: local transformers."""
