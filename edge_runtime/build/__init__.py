"""From a trained model to one that a device may trust: quantize, lint, gate, compile, bundle.

Nothing here runs while frames are analysed.
"""
