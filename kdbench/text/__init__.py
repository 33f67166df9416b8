"""What only text needs: tokenised data sets, networks that answer texts, scores of what they say."""
