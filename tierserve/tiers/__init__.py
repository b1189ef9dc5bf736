"""What answers: engines in this process, and servers elsewhere, behind one interface (base.py)."""
