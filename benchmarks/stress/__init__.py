"""What a server of worlds must survive: hostile messages, kill -9, broken networks, churn and overload."""
