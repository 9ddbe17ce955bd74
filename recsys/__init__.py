"""What every layer may import (settings, errors), and above all layers the command line and the local platform."""
