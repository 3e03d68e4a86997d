"""placeholder while the interpreter is brought up"""
class Tiering:
    def __init__(self, *a, **k): pass
    def start(self): pass
    def request(self, pc): pass
    def quiesce(self, i): pass
    def invalidate(self, a, b): pass
    def close(self): pass
