"""Published models that are imported to show that it works, and their own code to compare with."""
