"""Batches of training images, augmented into views on the device that trains.

May be imported by training and evaluation; knows data sets and augmentation, but no model.
"""
