"""nca-interp: does pre-pre-training on synthetic data help a language model, and which parts carry it?"""
