"""A rank-one change of weight matrices, as a method of peftcli."""
