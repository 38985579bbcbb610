"""The paper, robust mask maker (Sadri et al., J. Appl. Cryst. 55, 2022): arrays in, arrays out.

No sockets, files, clock, threads or logging. Live, batch and tests differ only in who calls feed(),
and refresh() or fit_all().
"""

from .maker import Fed, MaskMaker

__all__ = ["Fed", "MaskMaker"]
