"""How good a model is: metrics, baselines beside them, the worst errors, reports.

Everything here works on numpy arrays and knows nothing of TensorFlow; scikit-learn and matplotlib are imported where
they are used, so that importing these modules costs nothing.
"""
