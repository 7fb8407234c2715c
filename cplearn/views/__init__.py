"""Batches of training images, augmented into views on the device that trains.

Training and evaluation import `batches` from here; it knows data sets and augmentation, but no model.
"""
