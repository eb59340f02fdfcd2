"""What one run or several came to: report.json and every view of it."""
