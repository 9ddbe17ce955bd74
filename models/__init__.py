"""Models, policies and the records of what is deployed. Models know tensors, not files."""
