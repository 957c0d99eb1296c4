"""All op families; importing this package registers every op."""
