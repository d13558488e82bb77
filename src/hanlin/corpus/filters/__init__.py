"""What a document must be like to stay: repair, line rules, document rules, personal data, a trained quality
score."""
