"""How well and how fast the perimeter's detectors find what is sensitive."""
