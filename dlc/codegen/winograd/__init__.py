"""3 x 3 convolutions and gradients of their weights by Winograd's minimal filtering."""
