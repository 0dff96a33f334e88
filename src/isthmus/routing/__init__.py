"""Where a request goes, and why. Pure: (route, envelope, circumstances, facts) → decision."""
