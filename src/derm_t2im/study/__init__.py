"""A blinded reader study: can people tell synthetic images from real ones, and do they diagnose them as prompted?"""
