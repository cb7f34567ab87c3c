"""Does a model retrieve a list that it has read before, word by word; and its loss by position and by token frequency."""
