"""`nca-interp doctor`: what this machine is and can do."""

from __future__ import annotations

from nca_interp.errors import RunFailed


def doctor() -> None:
    """Show versions, devices and what this machine can do."""
    import shutil

    from nca_interp import machine

    print(f"device      {machine.device_name()}, {machine.cores()} cores")
    precision = "bf16" if machine.native_bf16() else "fp32"
    native = "native" if machine.native_bf16() else "not native: auto precision is fp32"
    print(f"bf16        {native}")
    print(f"matmul      {machine.matmul_flops(precision) / 1e9:,.0f} GFLOP/s ({precision}, one thread or GPU)")
    print(f"disk free   {shutil.disk_usage('.').free / 1e9:,.0f} GB")
    print(f"sandbox     {_sandbox()}")
    for name, version in machine.package_versions().items():
        print(f"{name:24} {version}")
    if "missing" in machine.package_versions().values():
        raise RunFailed("packages are missing; install with: pip install -c constraints.txt -e .")


def _sandbox() -> str:
    """What runs programs that a model wrote (`evaluate --run-generated-code`), tried now."""
    from nca_interp.evaluate.sandbox import working

    found, why = working()
    return f"{found.name} works" if found is not None else f"none: programs of a model are not run ({why})"
