"""What takes which layer, ``torch.nn``'s and fastrnn's."""
