"""Discretisations as diffrax solvers: diffrax's own, and those it lacks."""

from diffrax import (
    Bosh3 as Bosh3,
    Dopri5 as Dopri5,
    Dopri8 as Dopri8,
    Euler as Euler,
    Heun as Heun,
    ImplicitEuler as ImplicitEuler,
    Kvaerno3 as Kvaerno3,
    Midpoint as Midpoint,
    Ralston as Ralston,
    Tsit5 as Tsit5,
)

from neuralflow.schemes.runge_kutta import RK4 as RK4, ThreeEighths as ThreeEighths
