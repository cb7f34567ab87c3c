"""What one fixed sequence looks like to every head, checkpoint by checkpoint: the data of the report's player (docs/player.md)."""
