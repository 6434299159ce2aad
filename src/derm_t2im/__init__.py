"""derm-t2im: synthetic dermoscopic images, and honest evidence of whether they help."""

__version__ = "0.1.0"
