"""Derive the polynomial of simd.hpp: exp(r) - 1 = r + r^2 q(r) for |r| <= ln(2) / 2.

q is fitted to (exp(r) - 1 - r) / r^2 by Chebyshev interpolation in 60 digits, then rounded to the
working precision; what is printed is pasted into ``simd.hpp``. Run: ``python tests/kernels/fit_expm1.py``.
"""

import mpmath


def fit(degree: int) -> tuple[list[mpmath.mpf], mpmath.mpf]:
    """Coefficients of q, constant first, and the largest error of r + r^2 q(r) relative to exp(r) - 1."""
    mpmath.mp.dps = 60
    half = mpmath.log(2) / 2 * (1 + mpmath.mpf(2) ** -12)  # the rounding of k may overshoot a little

    def quotient(r: mpmath.mpf) -> mpmath.mpf:
        if abs(r) < mpmath.mpf(10) ** -12:
            return mpmath.mpf(1) / 2 + r / 6 + r * r / 24
        return (mpmath.expm1(r) - r) / r**2

    coefficients = mpmath.chebyfit(quotient, [-half, half], degree + 1)[::-1]
    points = [half * k / 2000 for k in range(-2000, 2001) if k]
    error = max(
        abs((r + r * r * mpmath.polyval(coefficients[::-1], r)) / mpmath.expm1(r) - 1) for r in points
    )
    return coefficients, error


if __name__ == "__main__":
    for name, degree in (("float", 4), ("double", 10)):
        values, worst = fit(degree)
        print(f"{name}: degree {degree}, relative error {mpmath.nstr(worst, 3)}")
        for value in values:
            print("   ", mpmath.nstr(value, 20))
