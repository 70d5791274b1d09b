"""Short texts that many tests encode."""

TEXTS = (
    "the cat sat on the mat",
    "a dog barked at the moon",
    "rain fell",
    "the long road wound over the hills and down to the sea",
    "moon",
    "cats and dogs and cats again",
    "over the sea the rain fell and the dog sat on the long road",
)
